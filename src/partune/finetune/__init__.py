"""Fine-tuning with LoRA and scoring, on a base model that stays in memory.

transformers and PEFT train the adapters. lm-evaluation-harness scores them.
"""
