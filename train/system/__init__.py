"""What is shared with the machine: errors, signals, memory, the terminal."""
