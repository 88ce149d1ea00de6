"""One optimizer step: loss, what is frozen, optimizer, schedule, and the loop around it."""
