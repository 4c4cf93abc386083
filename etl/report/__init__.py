"""What a person looks at: the HTML report and its pictures."""
