"""Reports: stored rows become tables, figures and pages."""
