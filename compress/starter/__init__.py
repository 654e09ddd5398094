"""`compress init`: write a profile for the user's own model and data, based on their files."""
