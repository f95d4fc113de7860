"""What is shown: the terminal, files, the page, figures and MLflow."""
