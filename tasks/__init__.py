"""Prefect tasks: only here are Prefect, MLflow, boto3 and the disk known."""
