"""What the flows run on: services for one machine, deployments, containers, a cluster."""
