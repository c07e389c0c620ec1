"""Styles and code of the page that shows a diff; `dcsurgery.diffing.page` puts them together."""
