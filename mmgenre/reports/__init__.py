"""What the report shows: numbers of arrays, charts of numbers, sections of charts, a page of sections."""
