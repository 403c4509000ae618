"""A cohort that is made, and the whole job on it."""
