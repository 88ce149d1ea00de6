"""What all commands share: exit codes and errors, signals, precision, files, the terminal."""
