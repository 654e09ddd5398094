"""The terms of an objective: each binds one loss to the signals of two models, and holds what it learns."""
