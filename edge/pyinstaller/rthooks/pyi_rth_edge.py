"""Runs before the code of a frozen app, which edge also starts to be another process: an engine's, or a trial's."""


def _serve() -> None:
    import sys
    from importlib import import_module

    if sys.argv[1:2] == ["--edge-worker-process"]:
        import_module("edge.worker_process").main()
    if sys.argv[1:2] == ["--edge-trial-process"]:  # by name: only an app that converts has it
        import_module("convert.trial").main()
        sys.exit()


_serve()
del _serve
