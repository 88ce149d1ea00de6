"""One stage's training run: its session, its folder, its metrics, and how it resumes."""
