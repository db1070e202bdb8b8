"""Audits of the private step: what canaries prove about epsilon, and what an update gives away."""
