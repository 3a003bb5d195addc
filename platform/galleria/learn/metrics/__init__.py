"""Scores with confidence intervals: retrieval, hierarchy, classification, contours."""
