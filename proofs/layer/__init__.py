"""Layers as the transparent backend commits to and proves them: from requests and records to its statements."""
