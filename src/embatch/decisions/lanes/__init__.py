"""The parts of the strategy: time by each lane, the purse, jobs under way, and the choice between plans."""
