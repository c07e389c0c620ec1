"""Finished runs beside the paper's numbers: tables, figures, and which claims they bear out."""
