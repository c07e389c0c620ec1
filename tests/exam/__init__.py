"""The public exam: models that others wrote, and hard ones of our own, each edited and judged. See docs/exam.md."""
