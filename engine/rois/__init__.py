"""The ROIs of a study: files and masks put into its tables, and taken out again."""
