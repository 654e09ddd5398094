"""Models of characters: which one comes next."""
