"""Fine-tuning with LoRA and scoring, on one resident base model.

transformers and PEFT train, lm-evaluation-harness scores.
"""
