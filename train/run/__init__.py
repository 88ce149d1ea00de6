"""One stage's training run: its folder, its metrics, and how it resumes."""
