"""What a step of one worker takes: time and memory."""
