"""Engines that move bytes, behind one seam (`base`), and the credentials that go with them."""
