"""Slow oracles of the scores: one sample at a time, fractions and plain lists."""

import math
from fractions import Fraction
from itertools import pairwise, permutations


def expected_calibration_error(
    confidences: list[float], correct: list[bool], num_bins: int
) -> float:
    """Sum over bins of |right answers - sum of confidences|, divided by N."""
    total = 0.0
    for number in range(num_bins):
        right, expected = 0, 0.0
        for confidence, is_right in zip(confidences, correct, strict=True):
            # Fractions are the floats themselves: no rounding decides on which side of an edge.
            above = Fraction(confidence) > Fraction(number / num_bins)
            if above and Fraction(confidence) <= Fraction((number + 1) / num_bins):
                right += is_right
                expected += confidence
        total += abs(right - expected)
    return total / len(confidences)


def risk_coverage(confidences: list[float], correct: list[bool]) -> list[float]:
    """Mean error rate of the first n samples over all orders that sort by falling confidence."""
    orders = [
        order
        for order in permutations(range(len(correct)))
        if all(confidences[first] >= confidences[second] for first, second in pairwise(order))
    ]
    return [
        math.fsum(sum(not correct[sample] for sample in order[:taken]) / taken for order in orders)
        / len(orders)
        for taken in range(1, len(correct) + 1)
    ]
