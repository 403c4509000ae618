"""The tests; a package, since some libraries put a package of this name beside it."""
