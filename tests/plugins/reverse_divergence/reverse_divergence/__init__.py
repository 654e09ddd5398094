"""The divergence of the teacher's predictions from the student's."""
