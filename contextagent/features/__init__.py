"""Machine and job features, and how long a machine has left: values alone; publishing and watching are elsewhere."""
