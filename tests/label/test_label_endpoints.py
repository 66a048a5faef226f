from fastapi.testclient import TestClient
def test_info(client: TestClient) -> None:
    import json
    r = client.get("/info/"); print(json.dumps(r.json(), indent=1)); 
    r = client.post("/infer/anomaly_segmentation?image=anomalous1&output=json"); print(r.status_code, r.text)
    r = client.post("/infer/anomaly_segmentation?image=nix&output=json"); print(r.status_code, r.text)
    r = client.post("/infer/nix?image=anomalous1&output=json"); print(r.status_code, r.text)
