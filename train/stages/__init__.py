"""The stages of training: where each starts, what it trains, what it saves."""
