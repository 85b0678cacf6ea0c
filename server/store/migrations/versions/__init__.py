"""One module per version of the schema. What is released is never edited: a change is another module."""
