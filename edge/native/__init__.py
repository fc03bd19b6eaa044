"""C modules of the engine, there if they could be compiled when edge was installed."""
