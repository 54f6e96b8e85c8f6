from collections.abc import Callable
from typing import Any


def test_rows_that_are_let_in_together_are_where_they_would_be_one_by_one(in_megatron: Callable[..., Any]) -> None:
    found = in_megatron(__file__, "drivers.py", "joining")

    counts = {"active_token_count", "total_request_count", "num_prefill_requests", "lifetime_prefill_token_count"}
    sequences = {"request_ids", "request_output_lengths", "request_kv_block_counts", "termination_id", "top_k"}
    assert counts | sequences | {"token_to_input_ids", "token_to_request_idx"} <= set(found["compared"])
    assert found["different"] == []
    # Which blocks they have does not matter.
    assert found["blocks"] == found["as_many"] == [1, 1, 3, 2, 1, 1, 4]
    assert found["taken"] == found["distinct"] == 13
    assert found["last"]
    assert found["of_tokens"]
