"""The whole way: scan, plan, process, finish; and what a run leaves behind."""
