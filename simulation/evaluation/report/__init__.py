"""Results that people look at: tables, plots and the page of the documentation."""
