"""Secure aggregation: the protocol as pure state machines over bytes.

The server learns the sum of the organizations' vectors and nothing else (double masking on the complete graph, Bonawitz
et al. 2017, with pinned identities and signed views). Bytes in, bytes out, so an auditor reads one folder; start at
`plan`, then `organization` beside `coordinator`; `views` holds the checks of every phase. Never imports Flower, torch,
transformers or another room. `kernel` is a faster copy of two loops and may be left out.

    organization                                            coordinator
    Organization.begin(plan_message, ...).advert            plan_message; add_advert, close_adverts
    share(adverts)                                          add_shares, close_shares
    mask(inbox, vector) -> header, words                    add_upload, close_uploads
    survive(survivors)                                      add_survival, close_survival
    unmask(quorum)                                          add_reveal, result -> RoundSum
    record.verify(record, ...) -> the next head
    open(opening), where there is no sum                    opening_request, add_opened, verdict
"""
