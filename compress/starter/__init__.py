"""`compress init`: a profile for the user's own model and data, from what their files tell."""
