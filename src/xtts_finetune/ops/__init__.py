"""What people call between runs."""
