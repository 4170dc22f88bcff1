"""What a training will need of a device and of time, told before it begins, on a machine with or without a GPU."""
