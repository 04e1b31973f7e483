"""The main job: make two organisms, measure them, find the direction between them, detect with it, take it out."""
