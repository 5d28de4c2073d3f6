"""Datasets: from files, from scikit-learn, and the linear example."""
