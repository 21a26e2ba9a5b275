"""What a driver loads, read once by the server that forks drivers: each process of its own would read it again."""

from __future__ import annotations

import alembic.runtime.migration
import optuna.storages
import scipy.linalg
import scipy.optimize
import sqlalchemy.dialects.postgresql

import partune.optimizers.bamsoo
import partune.optimizers.bayes
import partune.optimizers.optuna
import tests.support.driving

__all__ = ["alembic", "optuna", "partune", "scipy", "sqlalchemy", "tests"]
