"""A provider's world without HTTP: discrete events, counts instead of items, time and money on paper."""
