"""Commands of `ct-etl` that stand beside the main way: each is loaded when it is called."""
