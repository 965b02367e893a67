"""The report: arrays become numbers, numbers become charts, charts become sections, and sections become a page."""
