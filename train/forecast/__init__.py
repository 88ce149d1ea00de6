"""How much time, memory and disk a run will take, found out before it begins."""
