"""Files that users name: finding them, reading tables, and writing whole or not at all."""
