"""Every rival beside ours, in one run: ``python -m benchmarks.rivals``. One file a rival, written from its paper."""
