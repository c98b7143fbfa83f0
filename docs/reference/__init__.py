"""The generated part of the documents: a module a page, which stands beside it."""
