"""The evaluation: methods by seeds of a scenario, their metrics, studies and reports."""
