"""What a report's folder holds."""

__all__ = ["FIGURES", "FORMAT", "PAGE", "RECORD"]

PAGE, RECORD, FIGURES = "report.html", "report.json", "figures"
"""The page; all numbers, by which such a folder is known; the folder of pictures."""
FORMAT = 1
"""Of the numbers."""
